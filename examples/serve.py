"""A web service without ebmjax: class, confidence, "have I seen this kind of image?".

python -m ebmjax.export --workdir=runs/jem_digits --to=model.jaxexport
python examples/serve.py model.jaxexport 8000
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
    height, width, channels = about["input"]["shape"]
    least = about["log_density"]["quantiles"]["0.05"]  # 5 % of usual images are below

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            file = io.BytesIO(self.rfile.read(int(self.headers["Content-Length"])))
            image = Image.open(file).convert("L" if channels == 1 else "RGB")
            x = np.reshape(image.resize((width, height)), (1, height, width, channels))
            out = program.call(x)
            p, seen = jax.nn.softmax(out["logits"][0]), out["log_density"][0] >= least
            answer = {"class": about["class_names"][p.argmax()], "seen": bool(seen)}
            answer["confidence"] = float(p.max())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    return http.server.HTTPServer(("127.0.0.1", int(port)), Handler)


if __name__ == "__main__":
    main(*sys.argv[1:]).serve_forever()
