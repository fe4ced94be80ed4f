"""Figures of the book that take more than what ships, each with the script that draws it."""
