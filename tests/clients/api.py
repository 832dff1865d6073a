"""What the APIs answer: the events of a streamed response, and the whole of another."""

import json

TEXT = "Hello from upstream."


def answer_to(sent):
    """(the events of a streamed answer or none, the whole of another) for a request."""
    path = sent.path.split("?")[0]
    if path.endswith("/responses"):
        events, whole = [sse(event) for event in responses_messages()], response_object("completed")
    elif path.endswith("/chat/completions"):
        events, whole = completion_chunks(), completion_object()
    elif path.endswith("/messages"):
        events, whole = message_events(), message_object()
    elif path.endswith("/files"):
        return [], file_object(len(sent.body))
    else:
        return [], {"object": "list", "data": [], "models": []}
    streamed = b'"stream":true' in sent.body.replace(b" ", b"")
    return events if streamed else [], whole


def sse(event, named=True):
    name = f"event: {event['type']}\n" if named else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def response_object(status, output=True):
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
    }
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "m",
        "output": [message] if output else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if output else None,
    }


def responses_messages():
    done = response_object("completed")
    message = done["output"][0]
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    begun = response_object("in_progress", output=False)
    started = message | {"status": "in_progress", "content": []}
    events = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": started},
        {"type": "response.content_part.added", **place, "part": {**message["content"][0], "text": ""}},
        *({"type": "response.output_text.delta", **place, "delta": word} for word in TEXT.split(" ")),
        {"type": "response.output_text.done", **place, "text": TEXT},
        {"type": "response.output_item.done", "output_index": 0, "item": message},
        {"type": "response.completed", "response": done},
    ]
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def completion_chunks():
    def chunk(delta, finish=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return sse(whole | {"choices": [choice]}, named=False)

    words = [chunk({"content": word}) for word in TEXT.split(" ")]
    return [chunk({"role": "assistant"}), *words, chunk({}, "stop"), b"data: [DONE]\n\n"]


def completion_object():
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def file_object(size):
    whole = {"id": "file-1", "object": "file", "created_at": 1, "filename": "f", "purpose": "batch"}
    return whole | {"bytes": size, "status": "processed"}


def message_object():
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }


def message_events():
    begun = message_object() | {"content": [], "stop_reason": None}
    text = {"type": "text", "text": ""}
    ends = {"stop_reason": "end_turn", "stop_sequence": None}
    events = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": text},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ends, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    return [sse(event) for event in events]
