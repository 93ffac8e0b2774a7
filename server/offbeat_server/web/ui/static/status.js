// The public page: local times, and the page anew each minute while somebody looks.

import "./times.js";

setInterval(() => document.hidden || location.reload(), 60000);
