"""JupyterLab of the researcher's own desktop: on the sandbox's loopback, which no other machine or person reaches.

The token is new for each session (JUPYTER_TOKEN_FILE, set by /usr/lib/bulle/session).
"""

c = get_config()  # noqa: F821
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = 8888
c.ServerApp.port_retries = 0
c.ServerApp.allow_remote_access = False
c.ServerApp.open_browser = False
c.ServerApp.root_dir = "/home/researcher"
c.ServerApp.preferred_dir = "/home/researcher"
c.ServerApp.terminado_settings = {"shell_command": ["/bin/bash"]}
c.ServerApp.quit_button = False
c.ContentsManager.allow_hidden = False
c.FileContentsManager.delete_to_trash = False
# Nothing of it may wait for a network that is not there.
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"
c.LabApp.news_url = None
c.LabServerApp.blocked_extensions_uris = ""
c.LabServerApp.allowed_extensions_uris = ""
