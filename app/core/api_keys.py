"""Names the callers of the server. A caller owns the conversations that its requests create."""

# The owner for requests without a key and for LLM_API_KEY. It is the same, so that an operator who sets a key
# later loses no conversation.
DEFAULT_OWNER = "default"
