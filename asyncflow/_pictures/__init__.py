"""Draws a flow class as a graph, and a run of it: a pure model, and renderers for Mermaid, DOT and HTML."""
