// A right click on a row opens what its button opens.
export function menus() {
  document.addEventListener('contextmenu', (e) => {
    if (e.shiftKey || e.target.closest('a, input')) return; // the browser's own menu
    const link = e.target.closest('[data-menu]')?.querySelector('a[data-dialog]');
    if (!link) return;
    e.preventDefault();
    link.click();
  });
}
