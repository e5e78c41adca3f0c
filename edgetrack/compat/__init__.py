"""Edgetrack behind the interfaces of other libraries."""
