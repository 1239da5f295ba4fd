"""What the API reference cannot read from the source by itself: how Equinox modules are constructed."""

from griffe import Attribute, Class, Expr, ExprCall, Extension, Function, Module, Parameter, ParameterKind, Parameters

NOT_FIELDS = ("ClassVar", "AbstractVar", "AbstractClassVar")
ACCEPTED = {"Parameter": "ArrayLike", "Indices": "ArrayLike", "Kinds": "ArrayLike | None"}
ACCEPTED["OptionalParameter"] = ACCEPTED["Kinds"]
ACCEPTED["Named"] = "ArrayLike | NamedPairs | None"


class Constructors(Extension):
    """Gives Equinox modules and named tuples the `__init__` that their fields make; dataclasses have one already."""

    def on_package(self, *, pkg: Module, **kwargs) -> None:
        del kwargs
        written = lambda class_: any("__init__" in owner.members for owner in (class_, *class_.mro()))
        for class_ in [found for found in classes_of(pkg) if has_fields(found) and not written(found)]:
            class_.set_member("__init__", constructor(class_))


def classes_of(owner: Module | Class) -> list[Class]:
    """All classes defined in a package, also inside of classes."""
    inside = [m for m in owner.members.values() if not m.is_alias and (m.is_module or m.is_class)]
    return [m for m in inside if m.is_class] + [found for m in inside for found in classes_of(m)]  # pyright: ignore


def has_fields(class_: Class) -> bool:
    """Whether it derives from `equinox.Module`, perhaps through classes of Diffrax, or is a named tuple."""
    bases = [base for owner in (class_, *class_.mro()) for base in owner.bases if isinstance(base, Expr)]
    return any(base.canonical_path.startswith(("equinox.", "diffrax.", "typing.NamedTuple")) for base in bases)


def constructor(class_: Class) -> Function:
    """`__init__` with the fields of the class and of all that it derives from."""
    found = {p.name: p for owner in (*reversed(class_.mro()), class_) for p in fields_of(owner)}
    ordered = sorted(found.values(), key=lambda p: p.kind is ParameterKind.keyword_only)
    this = Parameter("self", kind=ParameterKind.positional_or_keyword)
    return Function("__init__", lineno=0, endlineno=0, parent=class_, parameters=Parameters(this, *ordered))


def fields_of(class_: Class) -> list[Parameter]:
    """Annotated attributes, as arguments."""
    attributes = [m for m in class_.members.values() if not m.is_alias and isinstance(m, Attribute)]
    return [argument(a) for a in attributes if a.annotation is not None and is_field(a)]


def is_field(attribute: Attribute) -> bool:
    """Not so: properties, constants of the class, what subclasses shall declare."""
    constant = "class-attribute" in attribute.labels and "instance-attribute" not in attribute.labels
    kind = str(attribute.annotation).split("[")[0].split(".")[-1]
    return not constant and "property" not in attribute.labels and kind not in NOT_FIELDS


def argument(attribute: Attribute) -> Parameter:
    """The argument that sets a field: what it may be, its default, whether it is given by name."""
    value, options, default = attribute.value, {}, attribute.value
    if isinstance(value, ExprCall) and str(value.function).split(".")[-1].lstrip("_")[0].islower():
        # a rule, or the options of a field
        options = {getattr(a, "name", None): getattr(a, "value", None) for a in value.arguments}
        default = options.get("default")
    by_name = str(options.get("kw_only")) == "True"
    annotation = ACCEPTED.get(str(attribute.annotation), attribute.annotation)
    kind = ParameterKind.keyword_only if by_name else ParameterKind.positional_or_keyword
    return Parameter(attribute.name, annotation=annotation, kind=kind, default=default)
