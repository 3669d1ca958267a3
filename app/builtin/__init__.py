"""The chat model that ships with the project: its weights and all that makes them."""
