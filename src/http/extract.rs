//! What handlers take apart and put together: strict JSON, queries, and typed answers.
//! Each describes itself to the OpenAPI document, so that the document cannot say another thing than the code.

use std::{
    borrow::Cow,
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    marker::PhantomData,
    time::Duration,
};

use aide::{OperationInput, OperationOutput, generate::GenContext, openapi};
use axum::{
    BoxError,
    body::{Body, HttpBody as _},
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, RawPathParams, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer},
    },
};

use serde_json::value::RawValue;

pub(super) use super::document::{describe_header, response_of};
use super::{App, document::may_fail, error::Problem};
use crate::{model::Limits, tasks};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a body that was refused may go on.
const LINGER: Duration = Duration::from_secs(1);

/// How much longer JSON can be for escapes that it need not have: `\u0061` is an `a`.
const METADATA_ESCAPED: usize = 6;

/// A JSON body: unknown and doubled fields are refused by name.
pub(super) struct Json<T> {
    pub(super) value: T,
    /// The bytes it was read from, for an idempotency key.
    pub(super) bytes: Bytes,
}

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        // Nothing has no type: what is wrong is that it is missing.
        if request.body().is_end_stream() {
            return Err(Problem::invalid("", "a JSON object is expected as body; {} is one"));
        }
        check_type(request.headers())?;
        let bytes = read(request, app.limits.body).await?;
        let (text, limits) = (bytes.clone(), app.limits);
        let value = tasks::on_bytes(bytes.len(), move || parse_object(&text, &limits)).await?;
        Ok(Self { value, bytes })
    }
}

fn parse_object<T: DeserializeOwned>(bytes: &[u8], limits: &Limits) -> Result<T, Problem> {
    // Before anything is made of it: metadata is the one thing that is made of many small ones.
    if bytes.len() > METADATA_ESCAPED * limits.metadata && metadata_bytes(bytes) > METADATA_ESCAPED * limits.metadata {
        let reason = format!("metadata: at most {} bytes as JSON", limits.metadata);
        return Err(Problem::invalid("metadata", reason));
    }
    check_doubles(bytes).map_err(refused)?;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(refused)?;
    Ok(value)
}

/// Where a body may be left out, nothing stands for all defaults.
impl<T: DeserializeOwned + Send + 'static> OptionalFromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Option<Self>, Problem> {
        match request.body().is_end_stream() {
            true => Ok(None),
            false => <Self as FromRequest<App>>::from_request(request, app).await.map(Some),
        }
    }
}

/// Refuses a body that was compressed.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let is_plain = |value: &HeaderValue| value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        true => Ok(()),
        false => Err(unsupported("the body is sent as it is, without Content-Encoding")),
    }
}

pub(super) fn unsupported(detail: &str) -> Problem {
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Problem::new(status, "unsupported_media_type", "Unsupported media type", detail)
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    check_encoding(headers)?;
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(unsupported("the body is sent as application/json"))
}

async fn read(request: Request, limit: usize) -> Result<Bytes, Problem> {
    let mut body = request.into_body();
    if body.size_hint().lower() > limit as u64 {
        pass_over(&mut body).await;
        return Err(Problem::too_large(limit));
    }
    // In one piece from the beginning: it is as long as it says, most often, and its pieces would be twice as much.
    let mut bytes = BytesMut::with_capacity(usize::try_from(body.size_hint().lower()).unwrap_or(0));
    let collected = async {
        let mut body = Limited::new(&mut body, limit);
        while let Some(frame) = body.frame().await {
            bytes.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
        }
        Ok::<_, BoxError>(())
    };
    match tokio::time::timeout(BODY_TIMEOUT, collected).await {
        Ok(Ok(())) => Ok(bytes.freeze()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            pass_over(&mut body).await;
            Err(Problem::too_large(limit))
        }
        Ok(Err(error)) => Err(Problem::invalid("", format!("the body did not arrive: {error}"))),
        Err(_) => Err(Problem::of_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

/// Takes a little of a refused body, and drops it: a connection that is closed under a client which still sends is
/// reset, and the client never reads why.
pub(super) async fn pass_over(body: &mut Body) {
    let taken = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(LINGER, taken).await;
}

fn refused(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    // Where the text ends before a field's name does, the path ends in a question mark.
    let path = error.path().to_string();
    let path = path.strip_suffix('?').map_or(path.as_str(), |path| path.strip_suffix('.').unwrap_or(path));
    let reason = error.into_inner().to_string();
    // serde names an unknown or missing field in its words, not in the path.
    let named = reason.split('`').nth(1).filter(|_| reason.contains(" field `"));
    let param = match (path, named) {
        ("." | "", Some(field)) => field.to_owned(),
        (path, Some(field)) if path.rsplit('.').next() != Some(field) => format!("{path}.{field}"),
        ("." | "", None) => String::new(),
        (path, _) => path.to_owned(),
    };
    Problem::invalid(param, reason)
}

/// A value that is written as an object: serde would take its fields in an array, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectOf(PhantomData))
    }
}

struct ObjectOf<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectOf<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
    }
}

/// A list that is no longer than this: it is refused while it is read, before it takes the memory of all its items.
pub(super) fn at_most<'de, const MOST: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(AtMost::<MOST, T>(PhantomData))
}

struct AtMost<const MOST: usize, T>(PhantomData<T>);

impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<MOST, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a list of at most {MOST}")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            if items.len() == MOST {
                return Err(serde::de::Error::custom(format!("at most {MOST} of these")));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// A top level of which the field `metadata` alone is looked at: the bytes that it has.
fn metadata_bytes(bytes: &[u8]) -> usize {
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow, default)]
        metadata: Option<&'a RawValue>,
    }
    // What is no such object is refused by name later.
    serde_json::from_slice::<Metadata<'_>>(bytes)
        .ok()
        .and_then(|found| found.metadata)
        .map_or(0, |json| json.get().len())
}

/// Refuses JSON in which an object has a field twice, but below a field `metadata`.
fn check_doubles(bytes: &[u8]) -> Result<(), serde_path_to_error::Error<serde_json::Error>> {
    let read = |seen| {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
        let outcome = NoDoubles(seen).deserialize(tracked).and_then(|()| json.end());
        outcome.map_err(|error| serde_path_to_error::Error::new(track.path(), error))
    };
    // Names that have one hash are most likely one name; only then the names themselves are kept.
    let hashes = RandomState::new();
    read(Seen::Hashes(&hashes)).or_else(|_| read(Seen::Names))
}

/// How fields are told apart that were seen of an object.
#[derive(Clone, Copy)]
enum Seen<'s> {
    Hashes(&'s RandomState),
    Names,
}

/// Any JSON in which no object has a field twice, but below a field `metadata`.
#[derive(Clone, Copy)]
struct NoDoubles<'s>(Seen<'s>);

impl<'de> DeserializeSeed<'de> for NoDoubles<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NoDoubles<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let (mut hashes, mut names) = (HashSet::new(), HashSet::new());
        while let Some(field) = fields.next_key::<Cow<'_, str>>()? {
            match field == "metadata" {
                true => drop(fields.next_value::<IgnoredAny>()?),
                false => fields.next_value_seed(self)?,
            }
            let is_new = match self.0 {
                Seen::Hashes(state) => hashes.insert(state.hash_one(&field)),
                Seen::Names => names.insert(field.clone().into_owned()),
            };
            if !is_new {
                return Err(serde::de::Error::custom(format!("duplicate field `{field}`")));
            }
        }
        Ok(())
    }
}

impl<T: JsonSchema> OperationInput for Json<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut openapi::Operation) {
        axum::Json::<T>::operation_input(ctx, operation);
        let codes = ["invalid_request", "request_timeout", "payload_too_large", "unsupported_media_type"];
        may_fail(operation, &codes);
    }
}

/// The ids in a path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, app).await;
        let params = params.map_err(|error| Problem::invalid("id", error.body_text()))?;
        let read = || MapDeserializer::<_, serde::de::value::Error>::new(params.iter());
        // Where the fault lies is looked for when there is one.
        let ids = T::deserialize(read()).or_else(|_| serde_path_to_error::deserialize(read()));
        ids.map(Self).map_err(|error| Problem::invalid(error.path().to_string(), error.inner().to_string()))
    }
}

impl<T: JsonSchema> OperationInput for Path<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut openapi::Operation) {
        axum::extract::Path::<T>::operation_input(ctx, operation);
        may_fail(operation, &["invalid_request"]);
    }
}

/// A query: unknown and doubled parameters are refused by name.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        parse(pairs(parts)?).map(Self)
    }
}

impl<T: JsonSchema> OperationInput for Query<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut openapi::Operation) {
        axum::extract::Query::<T>::operation_input(ctx, operation);
        may_fail(operation, &["invalid_request"]);
    }
}

/// No query: whatever is in one is refused by name.
pub(super) struct NoQuery;

impl FromRequestParts<App> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        match parts.uri.query() {
            None => Ok(Self),
            Some(_) => parse::<super::listing::NoFilter>(pairs(parts)?).map(|_| Self),
        }
    }
}

impl OperationInput for NoQuery {
    fn operation_input(_: &mut GenContext, operation: &mut openapi::Operation) {
        may_fail(operation, &["invalid_request"]);
    }
}

pub(super) type Pairs = Vec<(String, String)>;

pub(super) fn pairs(parts: &Parts) -> Result<Pairs, Problem> {
    let query = parts.uri.query().unwrap_or_default();
    let pairs: Pairs =
        serde_urlencoded::from_str(query).map_err(|error| Problem::invalid("query", error.to_string()))?;
    let mut seen = HashSet::new();
    for (name, value) in &pairs {
        if !seen.insert(name) {
            return Err(Problem::invalid(name, format!("{name} is given twice")));
        }
        // What is searched for may come from anywhere, with tabs and line feeds.
        if (name != "q" && value.chars().any(char::is_control)) || value.contains('\u{fffd}') {
            return Err(Problem::invalid(name, "a parameter is UTF-8 and holds no control characters"));
        }
    }
    Ok(pairs)
}

pub(super) fn parse<T: DeserializeOwned>(pairs: Pairs) -> Result<T, Problem> {
    let text = serde_urlencoded::to_string(pairs).map_err(|error| Problem::invalid("query", error.to_string()))?;
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).collect::<Vec<_>>().join("&");
    serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(form_urlencoded(pairs.as_bytes()))).map_err(
        |error: serde_path_to_error::Error<serde_urlencoded::de::Error>| {
            let path = error.path().to_string();
            let reason = error.into_inner().to_string();
            let named = reason.split('`').nth(1).filter(|_| reason.contains(" field `"));
            Problem::invalid(named.unwrap_or(&path), reason.clone())
        },
    )
}

fn form_urlencoded(bytes: &[u8]) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(bytes)
}

/// A JSON answer with its status, made from a value or from bytes that are JSON of that type.
pub(super) struct Answer<const STATUS: u16, T> {
    headers: HeaderMap,
    body: Bytes,
    of: PhantomData<fn() -> T>,
}

impl<const STATUS: u16, T: Serialize> Answer<STATUS, T> {
    pub(super) fn new(value: &T) -> Self {
        Self::raw(serde_json::to_vec(value).unwrap_or_default().into())
    }
}

impl<const STATUS: u16, T: Serialize + Send + 'static> Answer<STATUS, T> {
    /// The answer of a value whose JSON has about this many bytes.
    pub(super) async fn of(bytes: usize, value: T) -> Self {
        let written = tasks::on_bytes(bytes, move || {
            let mut json = Vec::with_capacity(bytes);
            serde_json::to_writer(&mut json, &value).map(|()| json).unwrap_or_default()
        });
        Self::raw(written.await.into())
    }
}

impl<const STATUS: u16, T> Answer<STATUS, T> {
    /// Bytes that are the JSON of a `T`.
    pub(super) fn raw(body: Bytes) -> Self {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { headers, body, of: PhantomData }
    }

    pub(super) fn with(mut self, (name, value): (header::HeaderName, HeaderValue)) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl<const STATUS: u16, T> IntoResponse for Answer<STATUS, T> {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = StatusCode::from_u16(STATUS).unwrap_or(StatusCode::OK);
        *response.headers_mut() = self.headers;
        response
    }
}

impl<const STATUS: u16, T: JsonSchema> OperationOutput for Answer<STATUS, T> {
    type Inner = T;

    fn operation_response(ctx: &mut GenContext, _: &mut openapi::Operation) -> Option<openapi::Response> {
        let response = response_of::<T>(ctx, "", "application/json");
        let description =
            ctx.schema.definitions().get(&*T::schema_name()).and_then(|schema| schema["description"].as_str());
        Some(openapi::Response { description: description.unwrap_or("The answer.").into(), ..response })
    }

    fn inferred_responses(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Vec<(Option<u16>, openapi::Response)> {
        Self::operation_response(ctx, operation).into_iter().map(|response| (Some(STATUS), response)).collect()
    }
}
