//! The indexed forms of texts that were written without them: titles, edited messages, and what a shell wrote.
//!
//! The schema's triggers mark such rows. Taking the mark away indexes them anew.

use sqlx::SqliteConnection;

use super::forms::{form, form_of_calls};
use crate::{
    storage::{
        Result,
        sqlite::{
            error,
            types::{self, Rows},
        },
    },
    tasks,
};

/// Rows of a step, and bytes of their texts: the first row is taken whatever it has.
const ROWS: i64 = 256;
const BYTES: i64 = 1 << 20;

/// A message's key and its texts; a session's, without tool calls.
type Texts = (i64, String, Option<String>, Option<String>);

/// Makes the forms of some rows that are marked, in a transaction that goes on. Whether there were any.
pub(in crate::storage::sqlite) async fn settle(conn: &mut SqliteConnection) -> Result<bool> {
    let marked = sqlx::query!(
        r#"select exists (select 1 from stale_message_terms) as "messages!: bool",
             exists (select 1 from stale_session_terms) as "sessions!: bool""#
    );
    let marked = marked.fetch_one(&mut *conn).await.map_err(error::of)?;
    let messages = marked.messages && messages(conn).await?;
    let sessions = marked.sessions && sessions(conn).await?;
    Ok(messages || sessions)
}

/// The newest first: those that were just written.
async fn messages(conn: &mut SqliteConnection) -> Result<bool> {
    let texts = sqlx::query_scalar!(
        r#"select json_group_array(json_array(m.message_key, m.content, m.reasoning, m.tool_calls)) as "texts!: Rows<Texts>"
           from (
             select message_key, bytes, sum(bytes) over (order by message_key desc) as together from (
               select k.message_key, m.bytes from stale_message_terms k left join messages m on m.message_key = k.message_key
               order by k.message_key desc limit ?1)
           ) k cross join messages m on m.message_key = k.message_key
           where k.together <= ?2 or k.together = k.bytes"#,
        ROWS,
        BYTES
    );
    let texts = texts.fetch_one(&mut *conn).await.map_err(error::of)?.read().await?;
    let bytes = texts.iter().map(|(_, content, _, calls)| content.len() + calls.as_deref().map_or(0, str::len)).sum();
    let made = move || {
        let forms = texts.iter().map(|(key, content, reasoning, calls)| {
            (key, form(content), reasoning.as_deref().map(form), calls.as_deref().map(form_of_calls))
        });
        types::object(&forms.collect::<Vec<_>>())
    };
    let forms = tasks::on_bytes(bytes, made).await;
    // One that has these forms already is left alone: an update that changes no form raises the version.
    let write = sqlx::query!(
        "update messages set content_terms = j.value ->> 1, reasoning_terms = j.value ->> 2, tools_terms = j.value ->> 3
         from json_each(?1) j
         where message_key = j.value ->> 0
           and (content_terms is not j.value ->> 1 or reasoning_terms is not j.value ->> 2 or tools_terms is not j.value ->> 3)",
        forms
    );
    write.execute(&mut *conn).await.map_err(error::of)?;
    let unmark = sqlx::query!(
        "delete from stale_message_terms where message_key in (select value ->> 0 from json_each(?1))",
        forms
    );
    unmark.execute(conn).await.map(|done| done.rows_affected() > 0).map_err(error::of)
}

async fn sessions(conn: &mut SqliteConnection) -> Result<bool> {
    let texts = sqlx::query_scalar!(
        r#"select json_group_array(json_array(s.session_key, s.title,
             cast(json_extract(s.conversation_summary, '$.content') as text), null)) as "texts!: Rows<Texts>"
           from (select session_key from stale_session_terms order by session_key desc limit ?1) k
             cross join sessions s on s.session_key = k.session_key"#,
        ROWS
    );
    let texts = texts.fetch_one(&mut *conn).await.map_err(error::of)?.read().await?;
    let forms = texts
        .iter()
        .map(|(key, title, summary, _)| (key, form(title), summary.as_deref().map(form).unwrap_or_default()));
    let forms = types::object(&forms.collect::<Vec<_>>());
    // While a row is marked, its forms are not read.
    let forget = sqlx::query!(
        "delete from session_title_terms where session_key in (select value ->> 0 from json_each(?1))",
        forms
    );
    forget.execute(&mut *conn).await.map_err(error::of)?;
    let write = sqlx::query!(
        "insert into session_title_terms (session_key, title, summary)
         select value ->> 0, value ->> 1, value ->> 2 from json_each(?1)
         where value ->> 1 <> '' or value ->> 2 <> ''",
        forms
    );
    write.execute(&mut *conn).await.map_err(error::of)?;
    let unmark = sqlx::query!(
        "delete from stale_session_terms where session_key in (select value ->> 0 from json_each(?1))",
        forms
    );
    unmark.execute(conn).await.map(|done| done.rows_affected() > 0).map_err(error::of)
}
