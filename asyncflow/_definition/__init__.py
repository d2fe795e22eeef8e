"""DECLARE: turn code into data. Decorators leave notes, a class becomes a `FlowDefinition`; nothing runs here."""
