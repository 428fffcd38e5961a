"""A server of gs://bucket in memory, at 127.0.0.1 and the port given.

Beside the emulator's own it tells readers an object's generation, as the real one
does: tensorstore writes on the condition that it has not changed since.
"""

import sys

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import objects

download = objects.download


def with_generation(request, response, storage):
    download(request, response, storage)
    if response.status < 300:
        name = request.params["bucket_name"], request.params["object_id"]
        found = storage.get_file_obj(*name)
        response["x-goog-generation"] = found["generation"]


if __name__ == "__main__":
    objects.download = with_generation
    port = int(sys.argv[1])
    server.create_server(
        "127.0.0.1", port, in_memory=True, default_bucket="bucket"
    ).run()
