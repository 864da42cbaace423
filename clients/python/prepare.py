"""Says the same as the OpenAPI document in words that the generator understands.

It names no form of a type that has several (`oneOf`), makes no class of a type that adds fields to one of those (`allOf`), and
knows no answer but JSON. Here each form becomes a type of its own, named after what tells it from the others:
`GpuMode` with `mode: partitioned` becomes `GpuModePartitioned`, whose `mode` need not be given.
"""

from copy import deepcopy
from typing import Any

Schema = dict[str, Any]
REF = "#/components/schemas/"


def prepared(document: Schema) -> Schema:
    """A document for the generator."""
    document = deepcopy(document)
    schemas = document["components"]["schemas"]
    for name in list(schemas):
        if "allOf" in schemas[name]:
            schemas[name] = joined(schemas[name], schemas)
    for name in list(schemas):
        forms = schemas[name].get("oneOf", [])
        if any("properties" in form for form in forms):
            schemas[name]["oneOf"] = [named(name, form, schemas) for form in forms]
    for methods in document["paths"].values():
        for request in methods.values():
            for content in request.get("requestBody", {}).get("content", {}).values():
                content["schema"] = without_null(content["schema"])
            for answer in request["responses"].values():
                without_other_than_json(answer)
    return document


def joined(schema: Schema, schemas: Schema) -> Schema:
    """One type instead of parts that are to be put together."""
    parts = [schemas[part["$ref"].removeprefix(REF)] if "$ref" in part else part for part in schema["allOf"]]
    of_forms = [part for part in parts if "oneOf" in part]
    plain = [part for part in parts if "oneOf" not in part]
    if not of_forms:
        return {**with_fields_of({"type": "object"}, plain), "description": schema.get("description", "")}
    (several,) = of_forms
    forms = [with_fields_of(form, plain) for form in several["oneOf"]]
    return {"oneOf": forms, "description": schema.get("description", "")}


def with_fields_of(schema: Schema, parts: list[Schema]) -> Schema:
    schema = deepcopy(schema)
    for part in parts:
        schema.setdefault("properties", {}).update(deepcopy(part.get("properties", {})))
        schema["required"] = [*schema.get("required", []), *part.get("required", [])]
    return schema


def named(name: str, form: Schema, schemas: Schema) -> Schema:
    """A reference to the form, which is a type of its own from now on."""
    if "properties" not in form:
        return form
    marks = {key: field["enum"][0] for key, field in form["properties"].items() if len(field.get("enum", [])) == 1}
    for key, mark in marks.items():
        form["properties"][key] = {"const": mark, "default": mark}
    # Marks of a form are few; one without any is told from the others by what it must have.
    words = list(marks.values()) or form["required"][:1]
    own = name + "".join(part.capitalize() for word in words for part in word.replace("-", "_").split("_"))
    if own in schemas:
        raise ValueError(f"two types would be called {own}")
    schemas[own] = form
    return {"$ref": REF + own}


def without_null(body: Schema) -> Schema:
    """A body that may be null may be left out, too; the generator would send a mark of its own as JSON then."""
    forms = [form for form in body.get("oneOf", []) if form != {"type": "null"}]
    return forms[0] if len(forms) == 1 else body


def without_other_than_json(answer: Schema) -> None:
    """Text of another kind is a text."""
    for kind in list(answer.get("content", {})):
        if kind not in {"application/json", "application/problem+json", "text/plain"}:
            del answer["content"][kind]
            answer["content"]["text/plain"] = {"schema": {"type": "string"}}
