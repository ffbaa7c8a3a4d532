"""The file and the graph: reading, the read-only view that analysis works on, surgery, writing."""
