"""The heart: facts forward, live and kept backward, ties, choices, and the plan that comes out of them."""
