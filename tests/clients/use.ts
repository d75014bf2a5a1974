// Uses the types that openapi-typescript generates (`schema.d.ts`), through openapi-fetch, for its calls against the server
// at CULM_URL, with CULM_TOKEN.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { env: Record<string, string> };

const api = createClient<paths>({
  baseUrl: process.env.CULM_URL,
  headers: { Authorization: `Bearer ${process.env.CULM_TOKEN}` },
});
const id = { id: "ts" };

function check(holds: boolean, what: unknown): asserts holds {
  if (!holds) throw new Error(JSON.stringify(what));
}

const ready = await api.GET("/ready");
check(ready.data?.status === "ok", ready);

// What may be left out may be left out.
const created = await api.POST("/api/v1/sessions", { body: { id: "ts", title: "From TypeScript" } });
check(created.response.status === 201 && created.data?.session.id === "ts", created);

const messages: components["schemas"]["NewMessage"][] = [
  { role: "user", content: [{ type: "text", text: "the heron stands in the reeds" }] },
  { role: "assistant", content: null, tool_calls: [{ id: "c", function: { name: "f", arguments: "{}" } }] },
];
const appended = await api.POST("/api/v1/sessions/{id}/messages", { params: { path: id }, body: { messages } });
check(appended.data?.messages[0]?.content === "the heron stands in the reeds", appended);

const page = await api.GET("/api/v1/sessions/{id}/messages", { params: { path: id, query: { order: "desc", limit: 1 } } });
check(page.data?.messages[0]?.role === "assistant" && page.data.has_more_before, page);

const read = await api.GET("/api/v1/sessions/{id}", { params: { path: id } });
const tag = read.response.headers.get("etag") ?? "";
const header = { "If-Match": tag };
const changed = await api.PATCH("/api/v1/sessions/{id}", { params: { path: id, header }, body: { title: "Changed" } });
check(changed.data?.session.title === "Changed", changed);
const stale = await api.PATCH("/api/v1/sessions/{id}", { params: { path: id, header }, body: { title: "Late" } });
check(stale.error?.code === "version_conflict" && stale.error.status === 412, stale);

const head = await api.HEAD("/api/v1/sessions/{id}", { params: { path: id } });
check(head.response.status === 200 && head.response.headers.get("etag") !== tag, head);

const added = await api.POST("/api/v1/sessions/{id}/attachments", {
  params: { path: id },
  body: { data: "aGVsbG8=", filename: "hello.txt" },
});
check(added.data?.attachment.size === 5, added);
const part = await api.GET("/api/v1/sessions/{id}/attachments/{attachment_id}", {
  params: { path: { ...id, attachment_id: added.data.attachment.id }, header: { Range: "bytes=0-1" } },
  parseAs: "text",
});
check(part.response.status === 206 && part.data === "he", part);

const found = await api.GET("/api/v1/search", { params: { query: { q: "heron" } } });
const [start, end] = found.data?.hits[0]?.snippet.ranges[0] ?? [0, 0];
check(found.data?.hits[0]?.snippet.text.slice(start, end) === "heron", found);

const deleted = await api.DELETE("/api/v1/sessions/{id}", { params: { path: id } });
check(deleted.data?.deleted_session_ids[0] === "ts", deleted);
const gone = await api.GET("/api/v1/sessions/{id}", { params: { path: id } });
check(gone.error?.code === "session_not_found", gone);
