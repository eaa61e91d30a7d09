//! One route as an OpenAPI operation.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value, json};

use super::comments::Comments;
use super::schema::{Schemas, describe};
use crate::contract::{Body, Contract, Method, Route};
use crate::template::{Segment, Template};

/// How deep messages in messages become query parameters.
const DEEPEST: usize = 3;

/// Adds to an operation what another one of the same requests answers, in another type, and what it takes for that.
pub fn join(operation: &mut Value, other: &Value) {
    let Some(content) = other["responses"]["200"]["content"].as_object() else { return };
    let types = content.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    for (name, value) in content {
        operation["responses"]["200"]["content"][name] = value.clone();
    }
    let about = |value: &Value| value["description"].as_str().unwrap_or_default().to_owned();
    operation["description"] = json!(format!("{}\n\nAs {types}: {}", about(operation), about(other)));
    let Some(known) = operation["parameters"].as_array_mut() else { return };
    for parameter in other["parameters"].as_array().into_iter().flatten() {
        if !known.iter().any(|p| p["name"] == parameter["name"] && p["in"] == parameter["in"]) {
            let mut parameter = parameter.clone();
            parameter["description"] = json!(format!("For {types}. {}", about(&parameter)));
            known.push(parameter);
        }
    }
}

/// The path of a route as OpenAPI writes it, and its operation. `nth` counts the routes of one method from 1.
pub fn of(
    contract: &Contract,
    route: &Route,
    nth: usize,
    comments: &Comments,
    schemas: &mut Schemas<'_>,
) -> (String, Value) {
    let method = &contract.methods[route.method];
    let (path, names) = path(contract, route);
    let input = method.descriptor.input();
    let in_path = route.captures.iter().zip(&names).map(|(capture, name)| {
        let mut schema = leaf(&input, &capture.name).map_or_else(|| json!({"type": "string"}), |f| schemas.field(&f));
        // one segment is one value, also where the field takes several
        if let Some(items) = schema.get("items").cloned() {
            schema = items;
        }
        let about = schema.as_object_mut().and_then(|s| s.remove("description")).unwrap_or_default();
        json!({"name": name, "in": "path", "required": true, "schema": schema, "description": about})
    });
    let mut parameters: Vec<Value> = in_path.collect();
    let bound: Vec<&str> = route.captures.iter().map(|capture| capture.name.as_str()).collect();
    match &route.body {
        Body::Whole => {}
        Body::Field(path) => query(&input, "", "", &[bound, vec![&path.name]].concat(), 1, schemas, &mut parameters),
        Body::None => query(&input, "", "", &bound, 1, schemas, &mut parameters),
    }
    let comment = comments.method(&method.descriptor);
    let name = format!("{}.{}", method.service, method.descriptor.name());
    let mut operation = json!({
        "operationId": if nth == 1 { name } else { format!("{name}_{nth}") },
        "tags": [method.service],
        "summary": summary(&comment),
        "description": format!("{comment}\n\n{}", who(method)),
        "parameters": parameters,
        "security": security(method),
        "responses": {
            "200": {"description": "The answer.", "content": answer(contract, route, schemas)},
            "default": {"$ref": "#/components/responses/Error"},
        },
    });
    if let Some(body) = request_body(contract, route, schemas) {
        operation["requestBody"] = body;
    }
    if method.policy.spool
        && let Some(receipt) = contract.pool.get_message_by_name("sensormesh.edge.v1.Receipt")
    {
        let description =
            "The service cannot be reached; the edge has kept the call and will make it. A receipt tells.";
        let content = json!({"application/json": {"schema": schemas.message(&receipt)}});
        operation["responses"]["202"] = json!({"description": description, "content": content});
    }
    (path, operation)
}

/// `/v1/{name=sites/*}:watch` as `/v1/{name}:watch`, with the names in braces.
fn path(contract: &Contract, route: &Route) -> (String, Vec<String>) {
    let names: Vec<String> =
        route.captures.iter().map(|capture| capture.field(&contract.shapes).json_name.clone()).collect();
    // parsed before, when the contract was prepared
    let Ok(template) = Template::parse(route.template) else { return (route.template.to_owned(), names) };
    let mut path = String::new();
    for (index, segment) in template.segments.iter().enumerate() {
        let variable = template.variables.iter().position(|v| v.start <= index && v.end.is_none_or(|end| index < end));
        match (variable, segment) {
            (Some(at), _) if template.variables[at].start == index => path.push_str(&format!("/{{{}}}", names[at])),
            (Some(_), _) => {}
            (None, Segment::Literal(text)) => path.push_str(&format!("/{text}")),
            (None, Segment::One) => path.push_str("/*"),
            (None, Segment::Rest) => path.push_str("/**"),
        }
    }
    if let Some(verb) = &template.verb {
        path.push_str(&format!(":{verb}"));
    }
    (path, names)
}

fn leaf(message: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let field = message.get_field_by_name(first)?;
    match rest {
        None => Some(field),
        Some(rest) => leaf(field.kind().as_message()?, rest),
    }
}

/// Every field that neither path nor body brings, as query parameters.
fn query(
    message: &MessageDescriptor,
    names: &str,
    paths: &str,
    bound: &[&str],
    depth: usize,
    schemas: &mut Schemas<'_>,
    out: &mut Vec<Value>,
) {
    for field in message.fields() {
        let name = format!("{names}{}", field.json_name());
        let path = format!("{paths}{}", field.name());
        if bound.contains(&path.as_str()) {
            continue;
        }
        match field.kind() {
            Kind::Message(inner) if !inner.full_name().starts_with("google.protobuf.") && !field.is_map() => {
                if !field.is_list() && depth < DEEPEST {
                    query(&inner, &format!("{name}."), &format!("{path}."), bound, depth + 1, schemas, out);
                }
            }
            _ => {
                let mut schema = schemas.field(&field);
                let about = schema.as_object_mut().and_then(|s| s.remove("description")).unwrap_or_default();
                let mut parameter = json!({"name": name, "in": "query", "schema": schema, "description": about});
                if field.is_map() {
                    parameter["style"] = json!("deepObject");
                    parameter["explode"] = json!(true);
                }
                out.push(parameter);
            }
        }
    }
}

fn request_body(contract: &Contract, route: &Route, schemas: &mut Schemas<'_>) -> Option<Value> {
    let method = &contract.methods[route.method];
    if contract.raw_body(route) {
        return Some(json!({"content": {"*/*": {}}}));
    }
    let schema = match &route.body {
        Body::None => return None,
        Body::Whole => schemas.message(&method.descriptor.input()),
        Body::Field(path) => schemas.field(&leaf(&method.descriptor.input(), &path.name)?),
    };
    let mut content = json!({"application/json": {"schema": schema}});
    if route.body == Body::Whole {
        content["application/x-www-form-urlencoded"] = json!({"schema": schema});
    }
    Some(json!({"required": true, "content": content}))
}

fn answer(contract: &Contract, route: &Route, schemas: &mut Schemas<'_>) -> Value {
    let method = &contract.methods[route.method];
    if let Some(content_type) = &method.produces {
        return json!({content_type: {"schema": {"type": "string"}}});
    }
    if route.raw {
        return json!({"*/*": {}});
    }
    let output = method.descriptor.output();
    let shown = route.shown.map(|position| contract.shapes.message(method.output).fields[position].number);
    let schema = match shown.and_then(|number| output.get_field(number)) {
        Some(field) => schemas.field(&field),
        None => schemas.message(&output),
    };
    if method.server_streaming {
        json!({"application/x-ndjson": {"schema": schema}, "text/event-stream": {"schema": schema}})
    } else {
        let mut content = json!({"application/json": {"schema": schema}});
        describe(&mut content["application/json"]["schema"], "");
        content
    }
}

fn summary(comment: &str) -> String {
    let line = comment.split("\n\n").next().unwrap_or_default();
    line.find(". ").map_or(line, |end| &line[..=end]).to_owned()
}

fn who(method: &Method) -> String {
    match (method.policy.public, method.policy.min_role) {
        (true, _) => "Needs no token.".to_owned(),
        (false, Some(role)) => format!("Takes the role `{role}` or a higher one."),
        (false, None) => "For services only.".to_owned(),
    }
}

fn security(method: &Method) -> Value {
    match (method.policy.public, method.is_stream()) {
        (true, _) => json!([]),
        (false, true) => json!([{"bearer": []}, {"ticket": []}]),
        (false, false) => json!([{"bearer": []}]),
    }
}
