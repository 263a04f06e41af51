"""A loopback server of OpenAI's chat, embeddings, files and batches routes, with faults on demand.

Its journal is flushed to the disk before a call is answered: what it says was asked, was asked.
"""

import asyncio
import base64
import hashlib
import json
import os
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Server:
    """Answers are a function of the question; `faults` are taken in order by the next calls.

    Attributes:
        faults: `429:<seconds>`, another status, `timeout`, `reset`, `cut` (of the body) or
            `truncated` (JSON).
        latency: Seconds from a question to its answer, the journal's flush included.
        plain: Response formats that it refuses.
        finished: Whether batches are done.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.faults: list[str] = []
        self.latency = 0.0
        self.plain: set[str] = set()
        self.finished = True
        self.keys: set[str] = set()
        self.files: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.url = ""
        self.most, self.open = 0, 0
        self.noted: list[str] = []
        self.flushing = asyncio.Lock()

    def asked(self) -> Counter[str]:
        """Journal: question -> how often it was answered."""
        return (
            Counter(self.journal.read_text().splitlines()) if self.journal.exists() else Counter()
        )

    @contextmanager
    def running(self) -> Iterator["Server"]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._connection, "127.0.0.1", 0), loop
        ).result()
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

        async def end() -> None:
            server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        fields = dict(
            line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
        )
        self.keys.add(fields.get("authorization", ""))
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            return await self._answer(writer, method, path.removeprefix("/v1"), body)
        finally:
            self.open -= 1

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, body: bytes
    ) -> bool:
        called = path in ("/chat/completions", "/embeddings")
        due = time.monotonic() + self.latency * called
        fault = self.faults.pop(0) if called and self.faults else ""
        status, extra, answer = 200, "", b""
        if fault == "timeout":
            await asyncio.sleep(3600)
        elif fault == "reset":
            return False
        elif fault[:1].isdigit():
            code, _, wait = fault.partition(":")
            status, extra = int(code), f"retry-after: {wait}\r\n" if wait else ""
            answer = json.dumps(
                {"error": {"message": f"fault {fault} for {sorted(self.keys)}"}}
            ).encode()
        else:
            status, answer = self._route(method, path, body)
            await self._flush()
        await asyncio.sleep(due - time.monotonic())
        if fault == "truncated":
            answer = answer[: len(answer) // 2]
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{extra}"
        writer.write(f"{head}content-length: {len(answer)}\r\n\r\n".encode())
        if fault == "cut":
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return True

    def _route(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path.startswith("/files") and method == "GET":
            return 200, self.files[path.split("/")[2]].encode()
        if path == "/files":
            name = f"file-{len(self.files)}"
            # The part of the form that holds JSON lines.
            lines = [each for each in body.decode().splitlines() if each.startswith("{")]
            self.files[name] = "\n".join(lines)
            return 200, _json({"id": name, "object": "file", "purpose": "batch"})
        if path.startswith("/batches"):
            return 200, _json(self._batch(method, path, body))
        question = json.loads(body)
        form = question.get("response_format", {}).get("type")
        if form in self.plain:
            return 400, _json({"error": {"message": f"response_format {form} is unknown"}})
        return 200, _json(self._reply(path, question))

    def _batch(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        if method == "POST":
            asked = json.loads(body)
            name = f"batch-{len(self.batches)}"
            self.batches[name] = {
                "id": name,
                "object": "batch",
                "status": "in_progress",
                "metadata": asked["metadata"],
                "input_file_id": asked["input_file_id"],
                "endpoint": asked["endpoint"],
                "completion_window": "24h",
                "created_at": 0,
            }
            return self.batches[name]
        if (name := path.removeprefix("/batches").lstrip("/")) in self.batches:
            batch = self.batches[name]
            if self.finished and batch["status"] == "in_progress":
                batch["status"] = "completed"
                batch["output_file_id"] = f"file-{len(self.files)}"
                self.files[batch["output_file_id"]] = "\n".join(self._done(batch))
            return batch
        found = list(self.batches.values())
        return {"object": "list", "data": found, "has_more": False}

    def _done(self, batch: dict[str, Any]) -> Iterator[str]:
        for line in self.files[batch["input_file_id"]].splitlines():
            row = json.loads(line)
            reply = self._reply(row["url"].removeprefix("/v1"), row["body"])
            response = {"status_code": 200, "body": reply}
            yield json.dumps({"custom_id": row["custom_id"], "response": response})

    def _reply(self, path: str, question: dict[str, Any]) -> dict[str, Any]:
        if path == "/embeddings":
            texts = question["input"]
            self.noted.append(f"embed {len(texts)}")
            vectors = [_vector(text) for text in texts]
            data = [{"embedding": base64.b64encode(each).decode()} for each in vectors]
            words = sum(len(text.split()) for text in texts)
            return {"data": data, "usage": {"prompt_tokens": words, "total_tokens": words}}
        asked = question["messages"][-1]["content"]
        self.noted.append(asked)
        message: dict[str, Any] = {"role": "assistant", "content": f"heard {asked}"}
        if "LONG" in asked:
            message["content"] = "word " * 2500
        elif "EMPTY" in asked:
            message["content"] = None
        elif "REFUSE" in asked:
            message |= {"content": None, "refusal": "I will not."}
        return {
            "id": uuid.uuid4().hex,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 40},
            },
        }

    async def _flush(self) -> None:
        """Return when all that is noted is on the disk; calls that wait together share a flush."""
        async with self.flushing:
            noted, self.noted = self.noted, []
            if noted:
                await asyncio.to_thread(self._write, noted)

    def _write(self, noted: list[str]) -> None:
        with self.journal.open("a") as journal:
            journal.writelines(f"{text}\n" for text in noted)
            journal.flush()
            os.fsync(journal.fileno())


def _vector(text: str) -> bytes:
    digest = hashlib.sha256(text.encode()).digest()
    return struct.pack("<4f", *(byte + 1 for byte in digest[:4]))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
