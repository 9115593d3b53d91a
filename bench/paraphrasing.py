"""How close paraphrasing comes to what a service's latency allows: 64 requests at once, 200 ms each.

Run as `python -m bench.paraphrasing`; the server is a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gradsim_assets.core.datasets.paraphrasing import ParaphraserOptions, paraphrase_samples
from gradsim_assets.core.samples import Sample
from gradsim_assets_tests.support.chat_server import ChatServer


def measure(texts: int, concurrency: int, latency: float) -> dict[str, float]:
    """Requests per second, and their share of the ideal concurrency / latency."""
    samples = [
        Sample(f"s{i}", f"What does text {i} say about rivers?", f"Text {i} tells of rivers, at some length. " * 20)
        for i in range(texts // 2)
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "gradsim_assets_tests.support.chat_server", "--latency", str(latency)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            options = ParaphraserOptions(
                store=Path(folder), base_url=url, api_key=ChatServer.key, concurrency=concurrency, max_cost_usd=5.0,
                prices={ParaphraserOptions.model: (0.15, 0.60)},
            )  # fmt: skip
            paraphrase_samples(samples[:concurrency], options)  # connections and imports are not what is measured
            started, worked = time.perf_counter(), time.process_time()
            result = paraphrase_samples(samples[concurrency:], options)
            seconds, work = time.perf_counter() - started, time.process_time() - worked
    finally:
        server.terminate()
        server.wait()
    requests = result.counts["requests"]
    ideal = -(-requests // concurrency) * latency
    return {
        "requests": requests,
        "concurrency": concurrency,
        "latency_seconds": latency,
        "seconds": round(seconds, 3),
        "requests_per_second": round(requests / seconds, 1),
        # What the ideal leaves to each request is latency / concurrency: 3.1 ms.
        "cpu_milliseconds_per_request": round(1000 * work / requests, 2),
        "share_of_ideal": round(ideal / seconds, 3),
    }


def main() -> None:
    """Prints the measurement as JSON, and writes it where `--output` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1976)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--output", type=Path, default=Path("build/bench/paraphrasing.json"))
    options = parser.parse_args()
    found = measure(options.texts, options.concurrency, options.latency)
    print(json.dumps(found, indent=2))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
