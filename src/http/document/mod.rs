//! The OpenAPI document: made from the routes and their types when a server is made, and completed with what types
//! cannot say.
//!
//! **It is true.** The tests' client checks each answer against what is described for that call and that very status:
//! body, code and headers.

mod codes;
mod describe;
mod headers;
mod operations;
mod schemas;

use std::sync::{Arc, OnceLock};

use aide::{
    generate::in_context,
    openapi::{License, OpenApi, SecurityScheme, Server, Tag},
    transform::TransformOpenApi,
};
use bytes::Bytes;
pub(super) use codes::check;
pub(super) use describe::{describe_header, response_of};
pub(super) use operations::{call, may_fail, open};
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::model::{JsonObject, Limits};

/// One example of each body, under the name of its schema.
const EXAMPLES: &str = include_str!("examples.json");

const TAGS: &[(&str, &str)] = &[
    ("sessions", "Conversations with their state, single and many at once."),
    ("messages", "The history of a session."),
    ("attachments", "Files that belong to a session."),
    ("search", "Full-text search."),
    ("runs", "Turns that executors carry out, and the questions that they ask."),
    ("children", "Sessions that work for another one."),
    ("events", "What happens, as it happens."),
    ("lifecycle", "Closing, archiving and opening again."),
    ("worktrees", "Git worktrees that session trees work in."),
    ("server", "The server itself."),
    ("bamboo-compat", "Calls of the system that Culm replaces, for clients that still speak it."),
];

/// The document's text, once it is made.
#[derive(Debug, Clone, Default)]
pub(super) struct Document(Arc<OnceLock<Bytes>>);

impl Document {
    /// Completes the routes' own description.
    pub(super) fn set(&self, described: &OpenApi) {
        let mut document = serde_json::to_value(described).unwrap_or_default();
        operations::finish(&mut document);
        schemas::tidy(&mut document);
        let examples: JsonObject = serde_json::from_str(EXAMPLES).unwrap_or_default();
        for (name, example) in examples {
            if let Some(schema) = document["components"]["schemas"].get_mut(&name) {
                schema["examples"] = Value::from(vec![example]);
            }
        }
        // A second router on the same application has the same routes.
        let _ = self.0.set(document.to_string().into());
    }

    pub(super) fn text(&self) -> Bytes {
        self.0.get().cloned().unwrap_or_default()
    }
}

/// From here on this thread makes schemas as OpenAPI 3.1 has them, until a document is made.
pub(super) fn begin() {
    in_context(|context| {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "#/components/schemas/".into();
        });
        context.schema = settings.into_generator();
    });
}

/// What is said of the API as a whole.
pub(super) fn described<'a>(api: TransformOpenApi<'a>, limits: &Limits) -> TransformOpenApi<'a> {
    let bearer = SecurityScheme::Http {
        scheme: "bearer".into(),
        bearer_format: None,
        description: Some("`culm token` prints it.".into()),
        extensions: Default::default(),
    };
    let mut api = api;
    api.inner_mut().info.license = Some(License {
        name: "MIT OR Apache-2.0".into(),
        identifier: Some("MIT OR Apache-2.0".into()),
        ..Default::default()
    });
    let api = TAGS.iter().fold(api, |api, (name, description)| {
        api.tag(Tag { name: (*name).into(), description: Some((*description).into()), ..Default::default() })
    });
    api.title("Culm")
        .version(env!("CARGO_PKG_VERSION"))
        .description(&description(limits))
        .server(Server { url: "/".into(), ..Default::default() })
        .security_scheme("token", bearer)
        .security_requirement("token")
}

fn description(limits: &Limits) -> String {
    format!(
        "The session server for AI agents.

**Limits** in bytes: title {}, metadata {}, one message {}, one body {}, one attachment {}. A larger message, body or \
         attachment is 413. JSON may be nested 120 levels deep; numbers that cannot be kept exactly are refused. A page \
         ends early at 8 MiB, and says that there is more. Requests and answers under way hold at most {} bytes together; \
         beyond that a request is answered 503 `overloaded`.

**Errors** are application/problem+json. `code` is stable; more members are added by code.

**Requests.** `X-Request-Id` is taken from the request or made, and is in every answer and in the log. Bodies are sent \
         without `Content-Encoding`; every other value than `identity` is 415. `Idempotency-Key` is taken where sessions, \
         messages, children and runs are created. What is no HTTP/1 request is answered by an empty 400, and a head of more than \
         64 KiB or 100 headers by an empty 431; then the connection is closed.

**Versions.** `ETag` is a session's version. `If-Match` makes a change conditional on it; a weak tag (`W/\"3\"`) counts as \
         its strong twin, because proxies that compress answers weaken tags. After a backup was restored, ids of events, \
         cursors and ETags carry an epoch, and those from before are answered with `reset`, 400 and 412.

**Methods.** Whatever takes `GET` takes `HEAD`.

{}",
        limits.title,
        limits.metadata,
        limits.message,
        limits.body,
        limits.attachment,
        limits.in_flight,
        codes::table()
    )
}
