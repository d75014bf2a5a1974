//! The OpenAPI document: each body has one example, which is what its schema says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Server;

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
