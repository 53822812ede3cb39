"""What gateway and engine agree on: settings, schemas, the catalog, records, stores, the queue, errors, pictures.

Imports neither a web framework nor torch.
"""
