"""The same with the lines that holdfast asks for."""
