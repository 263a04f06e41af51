"""Personas within parameters: user agents from one low-rank adapter per persona."""
