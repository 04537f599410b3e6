"""Run gcp-storage-emulator with what TensorStore needs besides: generations of objects, and conditions on them.

python -m tests.support.gcs_emulator HOST PORT BUCKET
"""

import http.server
import sys
import threading
from http import HTTPStatus

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

LOCK = threading.Lock()


def _generation(storage, bucket: str, name: str) -> str:
    try:
        return str(storage.get_file_obj(bucket, name)["generation"])
    except NotFound:
        return "0"


def _failed_condition(query, generation: str) -> HTTPStatus | None:
    if query.get("ifGenerationMatch", [generation])[0] != generation:
        return HTTPStatus.PRECONDITION_FAILED
    if query.get("ifGenerationNotMatch", [""])[0] == generation:
        return HTTPStatus.NOT_MODIFIED
    return None


def _with_generations(handler):
    """A handler of reads, writes or deletions that honours conditions and states the generation of what it reads."""

    def handle(request, response, storage, *arguments, **options):
        with LOCK:
            return handle_one(request, response, storage, *arguments, **options)

    def handle_one(request, response, storage, *arguments, **options):
        bucket = request.params["bucket_name"]
        name = request.params.get("object_id") or request.query.get("name", [""])[0]
        generation = _generation(storage, bucket, name)
        if (status := _failed_condition(request.query, generation)) is not None:
            response.status = status
            return None
        if request.method == "GET" and generation != "0":
            response["x-goog-generation"] = generation
        return handler(request, response, storage, *arguments, **options)

    return handle


def main() -> None:
    """Serve until the process is killed."""
    host, port, bucket = sys.argv[1:]
    http.server.HTTPServer = http.server.ThreadingHTTPServer  # connections that wait would stop all others
    changed = {
        each: _with_generations(each) for each in (objects.get, objects.download, objects.insert, objects.delete)
    }
    for _, methods in server.HANDLERS:
        methods.update({method: changed.get(handler, handler) for method, handler in methods.items()})
    server.create_server(host, int(port), in_memory=True, default_bucket=bucket).run()


if __name__ == "__main__":
    main()
