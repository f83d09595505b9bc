"""Runs the turns of a model: what the built-in engines of all providers share.

The loop over answers, tools and approvals, the reading of streams, retries, budgets and counts. What only one
protocol has (requests, events) is in the package of its engine, behind `endpoints.Endpoint`.
"""
