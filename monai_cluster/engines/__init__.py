# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
