//! Data forms (XEP-0004): what is read is written so that it reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xmpp::payload::data_form::Form;
use xmpp::xml::element::Element;

fuzz_target!(|data: &[u8]| {
    let xml = [b"<x xmlns='jabber:x:data' type='submit'>", data, b"</x>"].concat();
    for text in [data, &xml] {
        let Ok(element) = Element::parse(text) else { continue };
        let Ok(form) = Form::parse(&element) else { continue };
        let written = Element::parse(&form.element().to_bytes()).expect("well-formed");
        assert_eq!(Form::parse(&written).expect("a form of ours"), form);
        let _ = (form.form_type(), form.flag("x"), form.value("x"));
    }
});
