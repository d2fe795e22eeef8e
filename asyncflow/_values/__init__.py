"""SHAPE: copy, compare and merge values. It knows containers and models, and no flow."""
