"""LangGraph's platform API: engines are assistants, threads threads, runs runs; below `/v1/langgraph`.

`messages` converts LangChain's messages, `stream` translates a run, `routes` has the I/O.
"""
