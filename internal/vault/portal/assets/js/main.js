// What script adds to the pages. Each part works alone; without any of them
// the pages can be read and used.
import { localise } from './time.js';
import { listen } from './live.js';
import { dialogs } from './dialog.js';
import { folds } from './fold.js';
import { menus } from './menu.js';

localise(document);
listen();
dialogs();
folds();
menus();
