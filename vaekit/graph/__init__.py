"""Stochastic graphs: the expectation of a cost, its fold, credit assignment and the importance-weighted bound."""
