//! Pieces of descriptions that types make of themselves: a header that a call takes, a body that it answers.

use aide::{
    generate::GenContext,
    openapi::{self, MediaType, Parameter, ParameterData, ParameterSchemaOrContent, SchemaObject},
};
use schemars::JsonSchema;

/// Describes a header that a call takes.
pub(in crate::http) fn describe_header(
    ctx: &mut GenContext,
    operation: &mut openapi::Operation,
    name: &str,
    description: &str,
) {
    let schema = SchemaObject { json_schema: ctx.schema.subschema_for::<String>(), external_docs: None, example: None };
    let parameter_data = ParameterData {
        name: name.into(),
        description: Some(description.into()),
        required: false,
        deprecated: None,
        format: ParameterSchemaOrContent::Schema(schema),
        example: None,
        examples: Default::default(),
        explode: None,
        extensions: Default::default(),
    };
    let header = Parameter::Header { parameter_data, style: Default::default() };
    operation.parameters.push(openapi::ReferenceOr::Item(header));
}

/// How a body of this type is described.
pub(in crate::http) fn response_of<T: JsonSchema>(
    ctx: &mut GenContext,
    description: &str,
    media_type: &str,
) -> openapi::Response {
    let schema = SchemaObject { json_schema: ctx.schema.subschema_for::<T>(), external_docs: None, example: None };
    openapi::Response {
        description: description.into(),
        content: [(media_type.to_owned(), MediaType { schema: Some(schema), ..MediaType::default() })]
            .into_iter()
            .collect(),
        ..openapi::Response::default()
    }
}
