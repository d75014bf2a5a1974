//! `Content-Disposition`: the name of a file, read from a request and written into an answer (RFC 6266, RFC 8187).

use axum::http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What RFC 8187 takes as it is.
const AS_IT_IS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The value cannot be read.
#[derive(Debug)]
pub(super) struct Malformed;

/// The name in `attachment; filename="…"`, or in its `filename*`, which goes before it where it can be read.
pub(super) fn filename(value: &HeaderValue) -> Result<Option<String>, Malformed> {
    // What is not UTF-8 is Latin-1, as header fields once were.
    let value = std::str::from_utf8(value.as_bytes()).map_or_else(|_| latin_1(value.as_bytes()), str::to_owned);
    let (mut plain, mut extended) = (None, None);
    for (name, value) in parameters(&value).ok_or(Malformed)? {
        match name.as_str() {
            "filename" => plain = Some(value),
            "filename*" => extended = Some(decoded(&value)),
            _ => {}
        }
    }
    match extended {
        Some(Some(name)) => Ok(Some(name)),
        Some(None) if plain.is_none() => Err(Malformed),
        _ => Ok(plain),
    }
}

/// `charset'language'percent-encoded`, in UTF-8 or Latin-1.
fn decoded(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let (charset, _language, text) = (parts.next()?, parts.next()?, parts.next()?);
    // What is no escape would be taken as it is.
    let is_escape = |after: &str| after.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(is_escape) {
        return None;
    }
    let bytes = percent_decode_str(text);
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" => bytes.decode_utf8().ok().map(Into::into),
        "iso-8859-1" => Some(latin_1(&bytes.collect::<Vec<u8>>())),
        _ => None,
    }
}

fn latin_1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// A header's parameters, names in lower case, values without their quotes.
fn parameters(value: &str) -> Option<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    let mut rest = value.split_once(';').map_or("", |(_, rest)| rest);
    loop {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        if rest.is_empty() {
            return Some(parameters);
        }
        let (name, value) = rest.split_once('=')?;
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = value.find(';').unwrap_or(value.len());
                (value[..end].trim_end().to_owned(), &value[end..])
            }
        };
        parameters.push((name.trim().to_ascii_lowercase(), value));
        rest = after;
    }
}

/// What comes before the closing quote, and what after it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(chars.next()?.1),
            (_, c) => value.push(c),
        }
    }
}

/// How a browser is to treat a file of this name: show it, or only save it.
pub(super) fn of(inline: bool, filename: Option<&str>) -> HeaderValue {
    let kind = if inline { "inline" } else { "attachment" };
    let Some(name) = filename else { return HeaderValue::from_static(kind) };
    let plain: String =
        name.chars().map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') { c } else { '_' }).collect();
    let extended = utf8_percent_encode(name, AS_IT_IS);
    let value = format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{extended}");
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Option<String>, ()> {
        filename(&HeaderValue::from_bytes(value.as_bytes()).unwrap()).map_err(drop)
    }

    #[test]
    fn names_are_read_in_every_form() {
        assert_eq!(read("attachment"), Ok(None));
        assert_eq!(read("attachment; filename=a.png"), Ok(Some("a.png".into())));
        assert_eq!(read(r#"attachment; FileName="a \"b\"; c.png" ; x=y"#), Ok(Some("a \"b\"; c.png".into())));
        assert_eq!(read("attachment; filename=x; filename*=utf-8'en'na%C3%AFve"), Ok(Some("naïve".into())));
        assert_eq!(read("attachment; filename=a.txt; filename*=ISO-8859-1''na%EFve.txt"), Ok(Some("naïve.txt".into())));
        for broken in ["UTF-8''%FF", "UTF-8''%zz", "UTF-8''a%2", "ISO-8859-1''%", "x", "latin-9''a", ""] {
            let value = format!("attachment; filename=\"good.txt\"; filename*={broken}");
            assert_eq!(read(&value), Ok(Some("good.txt".into())), "{broken}");
        }
        let latin = HeaderValue::from_bytes(b"attachment; filename=\"na\xefve.txt\"").unwrap();
        assert_eq!(filename(&latin).unwrap(), Some("naïve.txt".into()));
        for bad in ["attachment; filename", "attachment; filename=\"a", "attachment; filename*=latin-1''a"] {
            assert_eq!(read(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_name_comes_back_as_it_was() {
        for name in ["a.png", "a \"b\".png", "naïve 数.png", "a;b=c", "100%", "a'b"] {
            assert_eq!(filename(&of(false, Some(name))).unwrap().as_deref(), Some(name));
        }
    }
}
