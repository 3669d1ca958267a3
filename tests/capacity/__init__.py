"""Predicts how many conversations a number of servers can hold, from measured step times."""
