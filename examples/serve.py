"""Class, confidence and "have I seen this kind of image?", by jax without ebmjax.

python examples/serve.py model.jaxexport 8000  # that ebmjax.export wrote
curl --data-binary @photo.png http://localhost:8000
"""

import http.server
import io
import json
import pathlib
import sys

import jax
import numpy as np
from PIL import Image


def main(path, port="8000"):
    program = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
    about = json.loads(pathlib.Path(f"{path}.json").read_text())
    shape, quantiles = about["input"]["shape"], about["log_density"]["quantiles"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            file = io.BytesIO(self.rfile.read(int(self.headers["Content-Length"])))
            image = Image.open(file).convert("L" if shape[2] == 1 else "RGB")
            image = np.reshape(image.resize(shape[1::-1]), (1, *shape))
            out = {name: x[0] for name, x in program.call(image).items()}
            answer = {"class": about["class_names"][out["logits"].argmax()]}
            answer["confidence"] = float(jax.nn.softmax(out["logits"]).max())
            answer["seen"] = bool(out["log_density"] >= quantiles["0.05"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    return http.server.HTTPServer(("127.0.0.1", int(port)), Handler)


if __name__ == "__main__":
    main(*sys.argv[1:]).serve_forever()
