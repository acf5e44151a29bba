"""A network camera for tests: an RTSP server of GStreamer, run with the system's Python, which has the bindings.

Arguments: address, port (0: any), and optionally USER:PASSWORD. Prints the port once it listens. Its pictures are
320 x 240, all of one reddish colour, 15 a second, at /porch.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
address, port, user = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""
server = GstRtspServer.RTSPServer()
server.set_address(address)
server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=solid-color foreground-color=0xffc83214"
    " ! video/x-raw,format=I420,width=320,height=240,framerate=15/1 ! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
)
factory.set_shared(True)
if user:
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*user.split(":")), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("user", permission, True)
    factory.set_permissions(permissions)
server.get_mount_points().add_factory("/porch", factory)
assert server.attach(None) != 0
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
