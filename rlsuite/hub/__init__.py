"""Runs on the Hugging Face Hub: what a repository holds, its model card, push and pull."""
