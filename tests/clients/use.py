"""Uses the generated Python client (`culm_client`) for its calls against the server at CULM_URL, with CULM_TOKEN."""

import io
import os

from culm_client import AuthenticatedClient
from culm_client.api.attachments import add_attachment, read_attachment
from culm_client.api.messages import append_messages, list_messages
from culm_client.api.runs import start_run
from culm_client.api.search import search
from culm_client.api.server import check_ready
from culm_client.api.sessions import append_usage, create_session, delete_session, list_sessions, read_session, update_session
from culm_client.models import (
    AppendBody,
    DeleteReceipt,
    NewMessage,
    NewRunBody,
    NewSession,
    NewUsage,
    NewUsageRecord,
    Problem,
    Role,
    SessionUpdate,
    ToolCall,
    ToolFunction,
)
from culm_client.types import File

client = AuthenticatedClient(base_url=os.environ["CULM_URL"], token=os.environ["CULM_TOKEN"], raise_on_unexpected_status=True)

assert check_ready.sync(client=client).status == "ok"
created = create_session.sync_detailed(client=client, body=NewSession(id="python", title="From Python"), idempotency_key="k")
assert created.status_code == 201 and created.headers["Location"] == "/api/v1/sessions/python"
call = ToolCall(id="c", function=ToolFunction(name="f", arguments="{}"))
said = [
    NewMessage(role=Role.USER, content="the heron stands in the reeds"),
    NewMessage(role=Role.ASSISTANT, content=None, tool_calls=[call]),
]
appended = append_messages.sync("python", client=client, body=AppendBody(messages=said))
assert appended.last_seq == 2 and appended.messages[0].content == said[0].content
page = list_messages.sync("python", client=client, limit=1)
assert page.has_more_after and page.messages[0].role == Role.USER
read = read_session.sync_detailed("python", client=client)
tag = read.headers["ETag"]
assert read_session.sync_detailed("python", client=client, if_none_match=tag).status_code == 304
changed = update_session.sync("python", client=client, if_match=tag, body=SessionUpdate(title="Changed"))
assert changed.session.title == "Changed"
stale = update_session.sync("python", client=client, if_match=tag, body=SessionUpdate(title="Late"))
assert isinstance(stale, Problem) and (stale.status, stale.code) == (412, "version_conflict")
added = add_attachment.sync("python", client=client, body=File(payload=io.BytesIO(b"0123456789"), file_name="a.bin"))
part = read_attachment.sync_detailed("python", added.attachment.id, client=client, range_="bytes=2-4")
assert part.status_code == 206 and part.content == b"234", part
assert search.sync(client=client, q="heron").hits[0].session.id == "python"
assert append_usage.sync("python", client=client, body=NewUsage(NewUsageRecord.from_dict({"tokens": 3}))).record["tokens"] == 3
assert [session.id for session in list_sessions.sync(client=client).sessions] == ["python"]
refused = start_run.sync("python", client=client, body=NewRunBody(message="hello"))
assert isinstance(refused, Problem) and refused.code == "executor_unavailable"
receipt = delete_session.sync("python", client=client)
assert isinstance(receipt, DeleteReceipt) and receipt.deleted_session_ids == ["python"], receipt
gone = read_session.sync("python", client=client)
assert isinstance(gone, Problem) and gone.code == "session_not_found"
create_session.sync(client=client, body=NewSession(id="python-2"))
assert delete_session.sync_detailed("python-2", client=client, prefer="return=minimal").status_code == 204
