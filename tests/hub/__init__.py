"""A stand-in for the Hub on loopback: what huggingface_hub uses of its protocol, with tiny files."""
