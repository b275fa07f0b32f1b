# The bridge keeps the hub's database layer out of its process. Other tests need it, in whatever order they run.
import sqlalchemy  # noqa: F401
