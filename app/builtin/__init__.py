"""The chat model that ships with the project: its corpus, its training and its evaluation."""
