// Menus that fold out close when something else is used, and with Escape.
export function folds() {
  const menus = () => document.querySelectorAll('details.who[open], details.menu[open]');
  document.addEventListener('click', (e) => {
    for (const m of menus()) if (!m.contains(e.target)) m.open = false;
  });
  document.addEventListener('keydown', (e) => {
    if (e.key !== 'Escape') return;
    for (const m of menus()) {
      m.open = false;
      m.querySelector('summary').focus();
    }
  });
}
