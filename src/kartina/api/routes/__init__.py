"""Routes: parse, call one service method, return."""
