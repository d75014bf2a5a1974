//! Answers kept under idempotency keys.

use culm::{
    model::{NewSession, Role},
    storage::{AppendOptions, Claim, Error, Storage},
};
use serde_json::json;

use crate::support::*;

fn claim(scope: &str) -> Option<Claim> {
    Some(Claim { scope: scope.into(), key: "k".into(), body_hash: "h".into() })
}

pub(super) async fn an_answer_is_kept_with_the_write_it_speaks_of(storage: &dyn Storage) {
    storage.create_session(new("a"), claim("create")).await.unwrap();
    let answer = storage.answer("create", "k").await.unwrap().unwrap();
    assert_eq!((answer.status, answer.body_hash.as_str()), (201, "h"));
    assert_eq!(answer.body, json!({ "session": "a" }));
    let options = AppendOptions { claim: claim("append"), ..AppendOptions::default() };
    storage.append_messages(&id("a"), vec![said(Role::User, "one")], options).await.unwrap();
    let answer = storage.answer("append", "k").await.unwrap().unwrap();
    assert_eq!(answer.body, json!({ "session": "a", "messages": ["one"] }));
}

pub(super) async fn a_write_that_fails_keeps_no_answer(storage: &dyn Storage) {
    create(storage, "a").await;
    let other = NewSession { pinned: true, ..new("a") };
    assert_fails!(storage.create_session(other, claim("create")).await, Error::SessionExists(_));
    let options = AppendOptions { claim: claim("append"), expected_last_seq: Some(9) };
    let refused = storage.append_messages(&id("a"), vec![said(Role::User, "one")], options).await;
    assert_fails!(refused, Error::VersionConflict { .. });
    for scope in ["create", "append"] {
        assert_eq!(storage.answer(scope, "k").await.unwrap(), None);
    }
}

pub(super) async fn a_refusal_is_kept_under_its_key(storage: &dyn Storage) {
    let problem = json!({ "code": "session_busy" });
    storage.keep_refusal(claim("s").unwrap(), 409, problem.clone()).await.unwrap();
    let answer = storage.answer("s", "k").await.unwrap().unwrap();
    assert_eq!((answer.status, answer.body), (409, problem));
}

pub(super) async fn keys_are_apart_by_scope(storage: &dyn Storage) {
    storage.create_session(new("a"), claim("one")).await.unwrap();
    assert_eq!(storage.answer("two", "k").await.unwrap(), None);
    assert_eq!(storage.answer("one", "l").await.unwrap(), None);
}
