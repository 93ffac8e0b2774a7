// What every page of somebody who is signed in loads.

import "./times.js";
import "./list.js";
import "./schedule.js";
import "./small.js";
import { open } from "./live.js";

open();
