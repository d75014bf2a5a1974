//! What is read of rows that match: their texts, and what a hit shows of them.

use std::collections::HashMap;

use super::{Kind, Match, Search, at_once, matching::snippet, spoken::spoken};
use crate::{
    model::{HitMessage, HitSession, HitType, MessageId, Role, SearchHit, SessionId, Snippet, Timestamp},
    storage::{
        Result,
        sqlite::{
            error,
            types::{self, Rows, Text, Word},
        },
    },
};

/// A row's key and its parts.
type Texts = (i64, Option<String>, Option<String>, Option<String>);

impl Search<'_> {
    /// The searched texts of some rows of one kind, by their keys.
    pub(super) async fn texts(&mut self, some: &[Match]) -> Result<HashMap<i64, Vec<String>>> {
        let keys = types::object(&some.iter().map(|found| found.key).collect::<Vec<_>>());
        let (reasoning, tools) = (self.limits.within.reasoning, self.limits.within.tools);
        let Some(first) = some.first() else { return Ok(HashMap::new()) };
        // The rows as one JSON array: thousands of values would be handed over one by one.
        let texts = if first.kind == Kind::Session {
            sqlx::query_scalar!(
                r#"select json_group_array(json_array(session_key, title,
                     cast(json_extract(conversation_summary, '$.content') as text), null)) as "texts!: Rows<Texts>"
                   from live_sessions where session_key in (select value from json_each(?1))"#,
                keys
            )
            .fetch_one(&mut *self.conn)
            .await
        } else {
            sqlx::query_scalar!(
                r#"select json_group_array(json_array(m.message_key, m.content, iif(?2, m.reasoning, null),
                     iif(?3, m.tool_calls, null))) as "texts!: Rows<Texts>"
                   from messages m where m.message_key in (select value from json_each(?1))"#,
                keys,
                reasoning,
                tools
            )
            .fetch_one(&mut *self.conn)
            .await
        };
        let texts = texts.map_err(error::of)?.read().await?;
        let parts = |(key, a, b, calls): Texts| {
            let calls = calls.map(|calls| spoken(&calls));
            (key, [a, b, calls].into_iter().flatten().collect())
        };
        Ok(texts.into_iter().map(parts).collect())
    }

    /// The hits of a page.
    pub(super) async fn hits(&mut self, page: &[Match]) -> Result<HashMap<(Kind, i64), SearchHit>> {
        let (sessions, messages): (Vec<Match>, Vec<Match>) = page.iter().partition(|found| found.kind == Kind::Session);
        let mut made = HashMap::new();
        for some in at_once(&sessions).chain(at_once(&messages)) {
            let texts = self.texts(some).await?;
            let Some(kind) = some.first().map(|found| found.kind) else { continue };
            let rows =
                if kind == Kind::Session { self.session_rows(some).await? } else { self.message_rows(some).await? };
            for (key, session, message) in rows {
                let (snippet, score) = self.shown(kind, texts.get(&key).map_or(&[][..], Vec::as_slice));
                let hit_type = if message.is_some() { HitType::Message } else { HitType::Session };
                let hit = SearchHit { kind: hit_type, session, message, snippet, score, more: Vec::new() };
                made.insert((kind, key), hit);
            }
        }
        Ok(made)
    }

    /// The first part in which something was found, and the score of all.
    fn shown(&self, kind: Kind, parts: &[String]) -> (Snippet, f64) {
        let found = self.matcher.read(parts.iter().map(String::as_str));
        let places = parts.iter().zip(&found.places);
        let part = places.clone().find(|(_, places)| !places.is_empty()).or_else(|| places.clone().next());
        let snippet = part.map_or_else(Snippet::default, |(text, places)| snippet(text, places));
        let score = self.score(kind == Kind::Session, &found);
        #[expect(clippy::cast_precision_loss, reason = "thousandths of a score below a hundred")]
        (snippet, score as f64 / 1000.0)
    }

    async fn message_rows(&mut self, some: &[Match]) -> Result<Vec<(i64, HitSession, Option<HitMessage>)>> {
        let keys = types::object(&some.iter().map(|found| found.key).collect::<Vec<_>>());
        let rows = sqlx::query!(
            r#"select m.message_key as "key!: i64", m.id as "message_id: MessageId", m.seq, m.role as "role: Word<Role>",
                 m.created_at as "created_at: Timestamp", s.id as "id: SessionId", s.title as "title: Text",
                 s.kind as "kind: Word<crate::model::Kind>", s.pinned as "pinned: bool", s.updated_at as "updated_at: Timestamp",
                 (select r.id from sessions r where r.session_key = s.root_key) as "root!: SessionId",
                 (select p.id from sessions p where p.session_key = s.parent_key) as "parent: SessionId"
               from messages m join live_sessions s on s.session_key = m.session_key
               where m.message_key in (select value from json_each(?1))"#,
            keys
        );
        let rows = rows.fetch_all(&mut *self.conn).await.map_err(error::of)?;
        let rows = rows.into_iter().map(|row| {
            let message = HitMessage { id: row.message_id, seq: row.seq, role: row.role.0, created_at: row.created_at };
            let session = HitSession {
                id: row.id,
                title: row.title.0,
                kind: row.kind.0,
                root_session_id: row.root,
                parent_session_id: row.parent,
                pinned: row.pinned,
                updated_at: row.updated_at,
            };
            (row.key, session, Some(message))
        });
        Ok(rows.collect())
    }

    async fn session_rows(&mut self, some: &[Match]) -> Result<Vec<(i64, HitSession, Option<HitMessage>)>> {
        let keys = types::object(&some.iter().map(|found| found.key).collect::<Vec<_>>());
        let rows = sqlx::query!(
            r#"select s.session_key as "key!: i64", s.id as "id: SessionId", s.title as "title: Text",
                 s.kind as "kind: Word<crate::model::Kind>", s.pinned as "pinned: bool", s.updated_at as "updated_at: Timestamp",
                 (select r.id from sessions r where r.session_key = s.root_key) as "root!: SessionId",
                 (select p.id from sessions p where p.session_key = s.parent_key) as "parent: SessionId"
               from live_sessions s where s.session_key in (select value from json_each(?1))"#,
            keys
        );
        let rows = rows.fetch_all(&mut *self.conn).await.map_err(error::of)?;
        let rows = rows.into_iter().map(|row| {
            let session = HitSession {
                id: row.id,
                title: row.title.0,
                kind: row.kind.0,
                root_session_id: row.root,
                parent_session_id: row.parent,
                pinned: row.pinned,
                updated_at: row.updated_at,
            };
            (row.key, session, None)
        });
        Ok(rows.collect())
    }
}
