"""A server for Hugging Face language models, and its terminal client."""

__version__ = "0.1.0"
