//! The OpenAPI document: what generators of clients need of it. That it is true is checked of each answer (`client.rs`);
//! that other tools take it, by `tests/clients/run`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use culm::runs::Executors;

use super::{Server, client::Setup};

/// The names of the schemas that requests and answers consist of.
fn bodies(document: &Value) -> BTreeSet<String> {
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let contents = operations.flat_map(|operation| {
        let responses = operation["responses"].as_object().unwrap().values();
        responses.map(|response| &response["content"]).chain([&operation["requestBody"]["content"]])
    });
    let schemas = contents.filter_map(Value::as_object).flat_map(|content| content.values());
    schemas
        .filter_map(|content| content["schema"]["$ref"].as_str())
        .map(|name| name.rsplit('/').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn each_body_has_an_example_that_its_schema_allows() {
    let server = Server::start().await;
    let schemas = server.document["components"]["schemas"].as_object().unwrap();
    let with_example: BTreeSet<String> =
        schemas.iter().filter(|(_, schema)| schema["examples"].is_array()).map(|(name, _)| name.clone()).collect();
    assert_eq!(with_example, bodies(&server.document));
    for name in with_example {
        let schema =
            json!({ "components": server.document["components"], "$ref": format!("#/components/schemas/{name}") });
        let validator = jsonschema::validator_for(&schema).unwrap();
        let example = &schemas[&name]["examples"][0];
        let errors: Vec<_> = validator.iter_errors(example).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}

#[tokio::test]
async fn the_examples_of_requests_are_taken() {
    let server = Server::start().await;
    let example = |name: &str| server.document["components"]["schemas"][name]["examples"][0].clone();
    let created = server.post("/sessions", example("NewSession")).await;
    assert_eq!(created.status, 201);
    assert_eq!(server.post("/sessions/review/messages", example("AppendBody")).await.status, 201);
    assert_eq!(server.patch("/sessions/review/messages/answer-1", example("EditBody")).await.status, 200);
    assert_eq!(server.patch("/sessions/review", example("SessionUpdate")).await.status, 200);
    assert_eq!(server.post("/sessions/review/usage", example("NewUsage")).await.status, 201);
    assert_eq!(server.post("/sessions/review/messages/truncate", example("Truncate")).await.status, 200);
    assert_eq!(server.post("/sessions/review/children", example("NewChild")).await.status, 201);
    let child = "/sessions/review/children/review-helper";
    assert_eq!(server.patch(child, example("ChildUpdate")).await.status, 200);
    assert_eq!(server.post(&format!("{child}/run"), example("RunChildBody")).await.status, 503);
    assert_eq!(server.post(&format!("{child}/messages"), example("MessageToChild")).await.status, 503);
    assert_eq!(server.post("/sessions/cleanup", example("CleanupBody")).await.status, 200);
}

/// All operations with their methods and paths.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let items = document["paths"].as_object().unwrap().iter();
    items
        .flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(|(method, operation)| (method.clone(), path.clone(), operation.clone()))
        })
        .collect()
}

#[tokio::test]
async fn each_call_has_a_name_a_description_and_its_errors_by_status() {
    let server = Setup { dev: true, ..Setup::new(Executors::new()) }.start().await;
    let tags: Vec<&Value> = server.document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&server.document) {
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no id"));
        assert!(ids.insert(id.to_owned()), "{id} is the id of two calls");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{id}");
        assert!(operation["description"].as_str().is_some_and(|text| text.ends_with('.')), "{id}");
        assert!(tags.contains(&&operation["tags"][0]), "{id}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].as_str().is_some_and(|text| !text.is_empty()), "{id}: {parameter}");
        }
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().all(|status| status.parse::<u16>().is_ok()), "{id}: {:?}", responses.keys());
        let statuses = |least: &str| responses.keys().any(|status| status.starts_with(least));
        assert!(statuses("2") && statuses("4") && statuses("5"), "{id}");
        assert_eq!(path.contains('{'), responses.contains_key("404"), "{id}");
    }
    let of_gets = operations(&server.document).into_iter().filter(|(method, ..)| method == "get");
    for (.., operation) in of_gets {
        assert!(ids.contains(&format!("head_{}", operation["operationId"].as_str().unwrap())));
    }
}

/// Finds all values under a name, wherever they are in a schema.
fn under<'v>(value: &'v Value, name: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(name));
            fields.iter().filter(|(name, _)| *name != "examples").for_each(|(_, value)| under(value, name, found));
        }
        Value::Array(items) => items.iter().for_each(|value| under(value, name, found)),
        _ => {}
    }
}

#[tokio::test]
async fn schemas_have_the_form_that_generators_take_and_are_all_used() {
    let server = Server::start().await;
    let found = |name| {
        let mut found = Vec::new();
        under(&server.document["components"]["schemas"], name, &mut found);
        under(&server.document["paths"], name, &mut found);
        found
    };
    assert!(found("items").iter().all(|items| items.is_object()), "`items` is one schema");
    assert_eq!(found("default"), Vec::<&Value>::new(), "a default makes a field required in generated clients");
    let used: BTreeSet<&str> = found("$ref").into_iter().filter_map(Value::as_str).collect();
    for kind in ["schemas", "responses", "headers"] {
        for name in server.document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            // Errors that all calls share are referred to by the responses, and these by all calls.
            assert!(used.contains(&*reference) || kind == "headers" || name == "Problem", "{reference} is not used");
        }
    }
    let whole = server.document.to_string();
    for reference in used {
        assert!(server.document.pointer(&reference[1..]).is_some(), "{reference}");
        assert!(whole.contains(reference));
    }
}
