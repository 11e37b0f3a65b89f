//! XEP-0157 1.1.2 Contact Addresses: whom to write to about this server, as extended information of its disco#info. Whoever runs it says so
//! in `[contact]`; if nothing is said there, the administrators are named.

use config::{Config, Contact};
use xmpp::ns;
use xmpp::payload::data_form::{Field, FieldKind, Form, FormKind};

/// The addresses to show.
pub(super) fn of(config: &Config) -> Contact {
    let mut contact = config.contact.clone();
    if contact.all().iter().all(|(_, addresses)| addresses.is_empty()) {
        let account = |account: &String| format!("xmpp:{account}");
        contact.admin = config.admin.accounts.iter().map(account).collect();
    }
    contact
}

/// The form; none if there is nobody.
pub(super) fn form(contact: &Contact) -> Option<Form> {
    let mut form = Form::typed(FormKind::Result, ns::SERVER_INFO);
    for (name, addresses) in contact.all() {
        if !addresses.is_empty() {
            form = form.with_field(Field {
                values: addresses.clone(),
                ..Field::empty(&format!("{name}-addresses"), FieldKind::ListMulti)
            });
        }
    }
    (form.fields.len() > 1).then_some(form)
}
