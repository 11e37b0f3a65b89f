//! Data forms (XEP-0004), with the FORM_TYPE of XEP-0068. Called by registration, disco extensions, rooms, commands.
//!
//! Deliberately absent: checking a submission against the form it answers (each feature knows its own fields), and media
//! elements.

use crate::ns;
use crate::xml::element::Element;

/// What a form is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormKind {
    /// To be filled in.
    Form,
    /// Filled in.
    Submit,
    /// Declined.
    Cancel,
    /// Data, to be read.
    Result,
}

impl FormKind {
    const ALL: [FormKind; 4] =
        [FormKind::Form, FormKind::Submit, FormKind::Cancel, FormKind::Result];

    /// The value of `type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FormKind::Form => "form",
            FormKind::Submit => "submit",
            FormKind::Cancel => "cancel",
            FormKind::Result => "result",
        }
    }
}

/// What a field may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldKind {
    /// Yes or no.
    Boolean,
    /// A text for the reader.
    Fixed,
    /// Given back as it is.
    Hidden,
    /// Addresses.
    JidMulti,
    /// An address.
    JidSingle,
    /// Some of the options.
    ListMulti,
    /// One of the options.
    ListSingle,
    /// Lines of text.
    TextMulti,
    /// A line not to be shown.
    TextPrivate,
    /// A line of text: what a field is that does not say.
    #[default]
    TextSingle,
}

impl FieldKind {
    const ALL: [FieldKind; 10] = [
        FieldKind::Boolean,
        FieldKind::Fixed,
        FieldKind::Hidden,
        FieldKind::JidMulti,
        FieldKind::JidSingle,
        FieldKind::ListMulti,
        FieldKind::ListSingle,
        FieldKind::TextMulti,
        FieldKind::TextPrivate,
        FieldKind::TextSingle,
    ];

    /// The value of `type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FieldKind::Boolean => "boolean",
            FieldKind::Fixed => "fixed",
            FieldKind::Hidden => "hidden",
            FieldKind::JidMulti => "jid-multi",
            FieldKind::JidSingle => "jid-single",
            FieldKind::ListMulti => "list-multi",
            FieldKind::ListSingle => "list-single",
            FieldKind::TextMulti => "text-multi",
            FieldKind::TextPrivate => "text-private",
            FieldKind::TextSingle => "text-single",
        }
    }
}

/// One field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// Its name; only a fixed one may go without.
    pub var: Option<String>,
    /// What it may hold; `None` in submissions, which need not say.
    pub kind: Option<FieldKind>,
    /// Its name for people.
    pub label: Option<String>,
    /// An explanation for people.
    pub desc: Option<String>,
    /// It must be filled in.
    pub required: bool,
    /// What it holds.
    pub values: Vec<String>,
    /// What may be chosen: label and value.
    pub options: Vec<(Option<String>, String)>,
}

impl Field {
    /// A field with one value.
    #[must_use]
    pub fn new(var: &str, kind: FieldKind, value: &str) -> Field {
        Field { values: vec![value.to_owned()], ..Field::empty(var, kind) }
    }

    /// A field without a value.
    #[must_use]
    pub fn empty(var: &str, kind: FieldKind) -> Field {
        Field { var: Some(var.to_owned()), kind: Some(kind), ..Field::default() }
    }

    /// The same with a name for people.
    #[must_use]
    pub fn with_label(mut self, label: &str) -> Field {
        self.label = Some(label.to_owned());
        self
    }

    /// The same, to be filled in without fail.
    #[must_use]
    pub fn required(mut self) -> Field {
        self.required = true;
        self
    }

    /// The same with one more value.
    #[must_use]
    pub fn with_value(mut self, value: &str) -> Field {
        self.values.push(value.to_owned());
        self
    }

    /// The same with one more option.
    #[must_use]
    pub fn with_option(mut self, label: &str, value: &str) -> Field {
        self.options.push((Some(label.to_owned()), value.to_owned()));
        self
    }

    fn element(&self) -> Element {
        let text = |name: &str, text: &str| Element::new(name, ns::DATA_FORMS).with_text(text);
        let options = self.options.iter().map(|(label, value)| {
            let option =
                Element::new("option", ns::DATA_FORMS).with_attr_opt("label", label.as_deref());
            option.with_child(text("value", value))
        });
        let required = self.required.then(|| Element::new("required", ns::DATA_FORMS));
        Element::new("field", ns::DATA_FORMS)
            .with_attr_opt("var", self.var.as_deref())
            .with_attr_opt("type", self.kind.map(FieldKind::name))
            .with_attr_opt("label", self.label.as_deref())
            .with_children(self.desc.as_deref().map(|desc| text("desc", desc)))
            .with_children(required)
            .with_children(self.values.iter().map(|value| text("value", value)))
            .with_children(options)
    }

    fn parse(element: &Element) -> Result<Field, BadForm> {
        let owned = |name: &str| element.attr(name).map(str::to_owned);
        let text =
            |element: &Element, name: &str| element.child(name, ns::DATA_FORMS).map(Element::text);
        let kind = match element.attr("type") {
            None => None,
            Some(name) => Some(
                FieldKind::ALL
                    .into_iter()
                    .find(|kind| kind.name() == name)
                    .ok_or(BadForm::FieldType)?,
            ),
        };
        let var = owned("var").filter(|var| !var.is_empty());
        if var.is_none() && kind != Some(FieldKind::Fixed) {
            return Err(BadForm::FieldName);
        }
        let options = element.children().filter(|child| child.is("option", ns::DATA_FORMS));
        let values = element.children().filter(|child| child.is("value", ns::DATA_FORMS));
        Ok(Field {
            var,
            kind,
            label: owned("label"),
            desc: text(element, "desc"),
            required: element.has_child("required", ns::DATA_FORMS),
            values: values.map(Element::text).collect(),
            options: options
                .map(|option| {
                    (
                        option.attr("label").map(str::to_owned),
                        text(option, "value").unwrap_or_default(),
                    )
                })
                .collect(),
        })
    }
}

/// Why an element is no form: `bad-request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadForm {
    /// Not `<x xmlns='jabber:x:data'/>` at all.
    Element,
    /// An unknown `type` of form, or none.
    FormType,
    /// An unknown `type` of field.
    FieldType,
    /// A field without `var`.
    FieldName,
    /// Two fields of one `var`.
    Duplicate,
}

/// A form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// What it is for.
    pub kind: FormKind,
    /// Its title.
    pub title: Option<String>,
    /// What to do with it.
    pub instructions: Vec<String>,
    /// Its fields, in order.
    pub fields: Vec<Field>,
    /// The columns of a table, if it is one.
    pub reported: Vec<Field>,
    /// The rows of the table.
    pub items: Vec<Vec<Field>>,
}

impl Form {
    /// An empty form.
    #[must_use]
    pub fn new(kind: FormKind) -> Form {
        Form {
            kind,
            title: None,
            instructions: Vec::new(),
            fields: Vec::new(),
            reported: Vec::new(),
            items: Vec::new(),
        }
    }

    /// An empty form of a FORM_TYPE (XEP-0068), which stands first.
    #[must_use]
    pub fn typed(kind: FormKind, form_type: &str) -> Form {
        Form::new(kind).with_field(Field::new("FORM_TYPE", FieldKind::Hidden, form_type))
    }

    /// The same with a title.
    #[must_use]
    pub fn with_title(mut self, title: &str) -> Form {
        self.title = Some(title.to_owned());
        self
    }

    /// The same with a line of instructions.
    #[must_use]
    pub fn with_instructions(mut self, instructions: &str) -> Form {
        self.instructions.push(instructions.to_owned());
        self
    }

    /// The same with one more field.
    #[must_use]
    pub fn with_field(mut self, field: Field) -> Form {
        self.fields.push(field);
        self
    }

    /// Reads a form.
    pub fn parse(element: &Element) -> Result<Form, BadForm> {
        if !element.is("x", ns::DATA_FORMS) {
            return Err(BadForm::Element);
        }
        let name = element.attr("type").unwrap_or_default();
        let kind =
            FormKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or(BadForm::FormType)?;
        let mut form = Form { fields: fields(element)?, ..Form::new(kind) };
        for child in element.children().filter(|child| child.ns() == ns::DATA_FORMS) {
            match child.name() {
                "title" => form.title = Some(child.text()),
                "instructions" => form.instructions.push(child.text()),
                "reported" => form.reported = fields(child)?,
                "item" => form.items.push(fields(child)?),
                _ => {}
            }
        }
        Ok(form)
    }

    /// The element.
    #[must_use]
    pub fn element(&self) -> Element {
        let text = |name: &'static str| {
            move |text: &str| Element::new(name, ns::DATA_FORMS).with_text(text)
        };
        let group = |name: &str, fields: &[Field]| {
            Element::new(name, ns::DATA_FORMS).with_children(fields.iter().map(Field::element))
        };
        let reported = (!self.reported.is_empty()).then(|| group("reported", &self.reported));
        Element::new("x", ns::DATA_FORMS)
            .with_attr("type", self.kind.name())
            .with_children(self.title.as_deref().map(text("title")))
            .with_children(self.instructions.iter().map(String::as_str).map(text("instructions")))
            .with_children(self.fields.iter().map(Field::element))
            .with_children(reported)
            .with_children(self.items.iter().map(|item| group("item", item)))
    }

    /// The FORM_TYPE (XEP-0068). In a form or result only a hidden field counts.
    #[must_use]
    pub fn form_type(&self) -> Option<&str> {
        let field = self.field("FORM_TYPE")?;
        let counts = field.kind == Some(FieldKind::Hidden) || self.kind == FormKind::Submit;
        field.values.first().filter(|_| counts).map(String::as_str)
    }

    /// The field of that name.
    #[must_use]
    pub fn field(&self, var: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.var.as_deref() == Some(var))
    }

    /// The first value of the field of that name.
    #[must_use]
    pub fn value(&self, var: &str) -> Option<&str> {
        self.field(var)?.values.first().map(String::as_str)
    }

    /// All values of the field of that name.
    #[must_use]
    pub fn values(&self, var: &str) -> &[String] {
        self.field(var).map_or(&[], |field| &field.values)
    }

    /// The first value as yes or no; `None` if there is no such field or it is neither.
    #[must_use]
    pub fn flag(&self, var: &str) -> Option<bool> {
        match self.value(var)? {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        }
    }
}

fn fields(element: &Element) -> Result<Vec<Field>, BadForm> {
    let mut found: Vec<Field> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for child in element.children().filter(|child| child.is("field", ns::DATA_FORMS)) {
        let field = Field::parse(child)?;
        if field.var.as_ref().is_some_and(|var| !names.insert(var.clone())) {
            return Err(BadForm::Duplicate);
        }
        found.push(field);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(xml: &str) -> Result<Form, BadForm> {
        Form::parse(&Element::parse(xml.as_bytes()).expect("well-formed"))
    }

    #[test]
    fn a_form_is_read_back_as_it_was_written() {
        let choice = Field::empty("size", FieldKind::ListSingle)
            .with_option("Small", "s")
            .with_option("Large", "l");
        let mut form = Form::typed(FormKind::Form, "urn:x")
            .with_title("Balcony & co")
            .with_instructions("Fill it in.")
            .with_field(Field::empty("name", FieldKind::TextSingle).with_label("Name").required())
            .with_field(choice)
            .with_field(Field {
                desc: Some("why".into()),
                ..Field::new("note", FieldKind::TextMulti, "a").with_value("b")
            });
        form.reported = vec![Field::empty("jid", FieldKind::JidSingle)];
        form.items = vec![vec![Field {
            var: Some("jid".into()),
            values: vec!["a@b.example".into()],
            ..Field::default()
        }]];
        assert_eq!(
            Form::parse(&Element::parse(&form.element().to_bytes()).expect("well-formed")),
            Ok(form)
        );
    }

    #[test]
    fn a_submission_is_asked_by_name() {
        let form = parse(
            "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>urn:x</value></field>\
             <field var='yes'><value>1</value></field><field var='no'><value>false</value></field>\
             <field var='odd'><value>maybe</value></field><field var='many'><value>a</value><value>b</value></field>\
             <field var='none'/><other xmlns='urn:o'/></x>",
        )
        .expect("a form");
        assert_eq!(form.form_type(), Some("urn:x"));
        assert_eq!(
            (form.flag("yes"), form.flag("no"), form.flag("odd"), form.flag("?")),
            (Some(true), Some(false), None, None)
        );
        assert_eq!(form.values("many"), ["a", "b"]);
        assert_eq!((form.value("none"), form.values("?").len()), (None, 0));
    }

    #[test]
    fn a_form_type_must_be_hidden_unless_it_is_submitted() {
        let field = "<field var='FORM_TYPE' type='text-single'><value>urn:x</value></field>";
        let form = |kind: &str| {
            parse(&format!("<x xmlns='jabber:x:data' type='{kind}'>{field}</x>")).expect("a form")
        };
        assert_eq!(form("result").form_type(), None);
        assert_eq!(form("submit").form_type(), Some("urn:x"));
    }

    #[test]
    fn what_is_no_form_is_refused() {
        let cases = [
            ("<x xmlns='jabber:x:oob'/>", BadForm::Element),
            ("<x xmlns='jabber:x:data'/>", BadForm::FormType),
            ("<x xmlns='jabber:x:data' type='wish'/>", BadForm::FormType),
            (
                "<x xmlns='jabber:x:data' type='form'><field var='a' type='b'/></x>",
                BadForm::FieldType,
            ),
            ("<x xmlns='jabber:x:data' type='submit'><field/></x>", BadForm::FieldName),
            ("<x xmlns='jabber:x:data' type='submit'><field var=''/></x>", BadForm::FieldName),
            (
                "<x xmlns='jabber:x:data' type='submit'><field var='a'/><field var='a'/></x>",
                BadForm::Duplicate,
            ),
        ];
        for (xml, expected) in cases {
            assert_eq!(parse(xml), Err(expected), "{xml}");
        }
        assert!(parse("<x xmlns='jabber:x:data' type='form'><field type='fixed'/><field type='fixed'/></x>").is_ok());
    }
}
