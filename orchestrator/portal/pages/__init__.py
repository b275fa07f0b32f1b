"""The portal's pages, a module for each part: ``routes(portal)`` serves them, ``ACTS`` are the forms on them."""
